"""Attribution methods: Grad-CAM, gradients, integrated gradients, occlusion, attention."""
