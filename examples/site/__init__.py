"""A static-site builder whose work is done by plugins: Markdown, CSS, images, fonts."""

# General layout, lowest first:
#
#   places                              which output a source becomes
#   plugins/text style image font       the work: plain functions on real libraries
#   sources  output  template           the folder read, the folder written, the frame of a page
#   executors                           calls them: here, in a process pool, on a hub
#   build                               the pipeline
#   progress  compare  serve            what the user sees
#   pictures  bench                     something to measure, and measuring it
#   __main__                            the command line
