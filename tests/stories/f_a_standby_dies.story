# One standby of two dies: nothing changes until its grace has passed.
nodes 3 standby_grace=4.0
kill node s1
wait 2
  never any rule
  old rule s1 is gone: the rule becomes ANY 1 (s2)
start s1
  old rule s1 streams
settle
