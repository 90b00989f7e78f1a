# Data and promises of a standby are gone: it counts for nothing until it streams.
nodes 3
lose data and state of s1
start s1
  s1 rejoin it has no data: clone
  old rule s1 streams
settle
