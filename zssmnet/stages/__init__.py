"""The pipeline, once: each stage a function of addresses, settings and a runner (`zssmnet.runner`).

A stage reads what the stage before has published and publishes its own files, with records; what is up to date is not
done again. Addresses are local folders or ``s3://bucket/prefix``. Commands and notebooks run stages in this process,
flows of Prefect as mapped tasks: the files are the same.
"""
