"""How the served model attends between the turns of chats: asked for, read in the worker, handed to the owner."""
