"""What is where in an image? Small heads on frozen patch features."""
