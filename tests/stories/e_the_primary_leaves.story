# SIGTERM to the primary's agent: it hands over and its successor does not need an election.
nodes 3
leave old
  any register old leaves and hands over
  new primary hands over
  never any election
start old
  old follow
settle
