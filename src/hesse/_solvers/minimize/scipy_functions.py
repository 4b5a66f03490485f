class ScipyFunctions: pass
def scipy_functions(): pass
