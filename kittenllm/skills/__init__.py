"""What a kitten can be taught beyond chatting: tools, search, sums, a language of its own."""
