# The power fails: no kernel is left to close connections, only silence tells.
nodes 3
power off old
  any suspect nothing was heard of old
  any election
  new primary
start old
settle
