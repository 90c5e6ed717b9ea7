def missing():
    return "not yet"
