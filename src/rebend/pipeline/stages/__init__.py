"""What each rule asks for: inputs, settings, resources and code, from the configuration and the wildcards.

One file per rule file, and `common` for several. A rule binds the configuration:
`partial(repbend.training_settings, CONFIG)`. Read `data` first.
"""
