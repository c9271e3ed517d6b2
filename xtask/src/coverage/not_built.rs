// (part of the group's path or start of the name, extension)
&[
    ("/sve", "SVE"),
    ("/sme", "SME"),
    ("/mortlach", "SME"),
]
