"""Attribution of checkpoints: pictures and a target in; maps, their scores and controls out."""
