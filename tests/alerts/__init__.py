"""What the tests of the alerts share: rule tests, changes of rules, simulations and a live shop."""
