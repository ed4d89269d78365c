"""How the packaged micro model is made: synthetic lives, the tasks of prompts v1, a tokenizer, a trainer, an exam."""
