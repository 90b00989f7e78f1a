# The primary is cut off from everybody: it is succeeded, and stops when its authority ends.
nodes 3
cut off old
  any suspect nothing was heard of old
  new primary
  old says its authority ran out
heal old
settle
