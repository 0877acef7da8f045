"""Questions and answers: the prompt template, what an answer says of itself, and the candidates for an extractive one."""
