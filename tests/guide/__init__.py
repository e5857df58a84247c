"""The guide that `breakerscope.compat` makes true: its blocks, and the services they speak of."""
