"""One file a published claim, tried at a scale that a small machine bears: `octavo recipes run NAME`."""
