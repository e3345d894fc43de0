"""What the tests of couplet-twisted share."""
