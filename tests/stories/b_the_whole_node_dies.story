# Agent, guard and PostgreSQL of the primary die at once: the channel closes, nothing listens.
nodes 3
kill node old
  any suspect old's agent is gone and its PostgreSQL does not answer
  any election
  new primary
start old
  old follow
settle
