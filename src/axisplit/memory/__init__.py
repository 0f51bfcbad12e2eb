"""How much memory each rank needs, and which way of distributing a model fits.

sizes alone ─shapes, formulae→ contents        parameters, activations and caches by the field's formulae
model, plan ─meter, model→ contents            its real parameters, what a forward keeps, axisplit's own shards
contents ─fit→ Fit                             what each rank holds by parallelism and dtype, and whether it fits
"""
