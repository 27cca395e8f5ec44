"""Planning a TPU pod from a machine without one: compile the train step, read what it costs."""
