"""Many runs of one question, settings x axes x seeds, and what they say together."""
