"""Inputs, settings, resources and code of each rule, as functions of the configuration and the wildcards.

There is one module per rule file; `common` serves several. A rule binds the configuration:
`partial(repbend.training_settings, CONFIG)`. Read `data` first.
"""
