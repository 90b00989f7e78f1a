# A standby whose replay is paused acknowledges, but is not appointed.
nodes 3
pause replay of s1
wait 2
kill node old
  s2 primary
resume replay of s1
start old
settle
