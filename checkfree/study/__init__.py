"""Many runs side by side, of equal seeds: which recovery strategy loses least?

``plan`` says what is to be trained, ``folders`` what has been, ``pool`` trains the rest in child
processes, ``gather`` makes a study of it all. Each run is an ordinary run folder.
"""
