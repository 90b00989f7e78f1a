# The whole cluster is stopped and started: the same primary, no election.
nodes 3
stop all at old
wait 5
start old
start s1
start s2
  old primary started again in place
settle
  never any election
