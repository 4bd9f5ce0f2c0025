"""visprobe: what did post-training do to the vision encoder of a multimodal LLM?"""

__version__ = "0.1.0"
