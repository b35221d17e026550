"""JSON schemas that answers keep to.

`read` puts a schema into the words that the constraint engine keeps to, with `references`, `regex`,
`formats` and `literals`; `sound` refuses what no text could satisfy; `matcher` follows an output.
Whatever cannot be enforced is refused, with the place in the schema where it stands.
"""
