"""One turn of conversation with memory."""
