# The successor dies as well before the first one is back.
nodes 3
kill postgres of old
  new primary
kill postgres of new
  any postgres_exited
settle
