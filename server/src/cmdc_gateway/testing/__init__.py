"""What a part of the gateway must do to be one: tests to inherit by whoever writes another, and what these need."""
