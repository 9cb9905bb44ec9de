"""Looking into an image: what stands where, and who names it. An inspection changes nothing, and
goes on where it meets damage.
"""
