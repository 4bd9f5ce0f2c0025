"""How maps are made: Grad-CAM, gradients, integrated gradients, occlusion, attention."""
