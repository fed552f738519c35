"""Taking a finished model elsewhere: storage, Hugging Face, Replicate, the folders of programs that make pictures."""
