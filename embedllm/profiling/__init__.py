"""A configuration to what one step of it costs: time, memory and operations, part by part."""
