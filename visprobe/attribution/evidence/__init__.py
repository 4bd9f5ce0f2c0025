"""Evidence on maps: focus, localisation, faithfulness, controls, and the verdict that they allow."""
