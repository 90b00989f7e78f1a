# A standby was lost, the rule shrank, then the primary dies: the other one succeeds.
nodes 3 standby_grace=2.0
kill node s2
  old rule s2 is gone: the rule becomes ANY 1 (s1)
wait 2
kill node old
  s1 suspect
  s1 primary
start old
start s2
settle
