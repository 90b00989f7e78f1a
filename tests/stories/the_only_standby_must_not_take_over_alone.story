# The rule was shrunk to the primary: nobody can succeed it, it starts again in place.
nodes 2
kill node s1
  old rule the primary alone
wait 2
kill postgres of old
  old primary started again in place
  never any election
start s1
settle
