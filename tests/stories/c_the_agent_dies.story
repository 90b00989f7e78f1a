# The agent of the primary dies and is started again: nobody is appointed.
nodes 3
kill agent of old
wait 0.7
start old
  old resume
settle
  never any election
