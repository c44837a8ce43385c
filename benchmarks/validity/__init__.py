"""How far the toy is to be believed: whether it finds what was published of networks at scale."""
