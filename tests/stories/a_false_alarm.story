# The others hear nothing of a healthy primary: it takes the office back.
nodes 3
mute old
wait 12
heal old
settle
