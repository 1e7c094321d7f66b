"""The way back: plan what is wanted, fetch each blob once, write files, finish the tree.

plan    the verified snapshot's rows, and which of them are wanted
fetch   blob -> age -> frames -> chunks, every one checked against its hash
write   chunks -> files under temporary names -> attributes -> their own names
finish  links, special files, directories' attributes, one sync
"""
