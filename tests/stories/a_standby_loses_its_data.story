# A standby's data directory is gone: it is cloned, as another incarnation.
nodes 3
lose data of s1
  s1 rejoin it has no data: clone
settle
  old rule s1 streams
