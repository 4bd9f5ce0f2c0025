"""What maps are worth: focus, localisation, faithfulness, controls, and what may be said of them."""
