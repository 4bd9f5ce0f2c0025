"""Where checkpoints look: from pictures and a target to maps, their scores and what they are worth."""
