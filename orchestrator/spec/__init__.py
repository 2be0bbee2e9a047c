"""What a person may ask for: the typed job spec, how it is read and how it is checked. No torch, no Ray."""
