"""A character GPT in plain torch: the model, its text, its measurements and its reports."""
