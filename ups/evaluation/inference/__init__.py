"""A user's own state in, a forecast out: `ups infer`."""
