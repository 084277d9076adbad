"""SGLang's own rules: defaults by card and version, the token pool, the lines of its bill."""
