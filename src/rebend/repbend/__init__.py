"""Methods that change the weights: RepBend and the methods that it is compared with, trained alike.

`train.py` holds the training loop, `launch.py` starts it on one or several processes. `objective.py` has the interface
of a method: a loss over the training examples of a step (`examples.py`), read from hidden states (`forward.py`).
`methods/` has one file per method, `merge/` adds an adapter to the weights of its base model. Read `objective.py`
first.
"""
