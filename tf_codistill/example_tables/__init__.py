"""Tables to learn clicks from: made ones, and public records that come with another package."""
