-- Each CT series goes to PIVOT once it is complete. PIVOT's own results are no CT, so they stay here.
function OnStableSeries(series, tags, metadata)
   if tags['Modality'] == 'CT' then
      SendToModality(series, 'pivot')
   end
end
