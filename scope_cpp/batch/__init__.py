"""``scope batch``: a file of prompts in, a record for each out, however often the run is killed.

=====================  ===================================================================
``rows``               what a row is, and that its id is its own
``formats``            which format a file has; ``input_lines``, ``parse`` and ``table`` (CSV)
                       make rows of it
``openai``             what a request of OpenAI asks
``source``             the input, as often as it is needed or once, no further than needed
``requests``           rows to requests of the engine, through the model's chat template
``runner``             the engine as rows in, records out: what a worker elsewhere does too
``record, shapes``     what came of a row; as a line of the output, and back
``line_file``          a file of lines that survives its process
``sink, order``        which records are there, and where new ones go; in input order
``config``             what results depend on, beside the output, so that no two are mixed
``sizes``              how many rows at once, in how many cells
``run``                the driver: feed, runner and sink; knows nothing of what is inside
``asked, job``         what the user wants; a batch from its files to its summary
=====================  ===================================================================
"""
